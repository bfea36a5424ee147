"""llmc: from web pages to an assistant, computed by one C/CUDA engine."""
