"""From web pages to clean documents: steps and readers for datatrove's pipelines."""
