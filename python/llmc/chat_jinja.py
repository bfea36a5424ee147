"""Templates in Jinja, for the programs that read those: transformers, vLLM, llama.cpp.

They write one text, which such a program then cuts into tokens. Its ids are those of chat.render,
for messages as chat.from_dict reads them, with these exceptions:

    a text with the name of a special token in it: there the name becomes the token
    an assistant's text whose first blanks the tokenizer joins to the line ends of the header, from
        which chat.render encodes it apart. In chatml with the pattern of Llama 3 and Qwen it may
        where the text begins with a line end, or with blanks and a line end, with GPT-2's where
        it begins with two blanks (a line end is one, too). In llama3 with GPT-2's the header's
        line ends differ before any text
    a tokenizer that puts a space before a text, but not behind special tokens ("prepend_scheme":
        "first")
    arguments of a call in JSON that is not spelled as json.dumps does; those of search and python
        are to be an object

{% generation %} stands around what an assistant is to learn.
"""
from __future__ import annotations

import json

from llmc.chat_templates import ARGUMENT

# Makes `turns` of messages, tools and the system's message where there is none.
SYSTEM = r"""
{%- macro text_of(message) -%}
  {%- if message.content is string -%}
    {{- message.content -}}
  {%- else -%}
    {%- for part in message.content or [] -%}
      {%- if part.type != "text" -%}
        {{- raise_exception("a message has a part that is no text") -}}
      {%- endif -%}
      {{- part.text -}}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- set turns = messages -%}
{%- if messages and messages[0].role in ["system", "developer"] -%}
  {%- set turns = messages[1:] -%}
  {%- set system = text_of(messages[0]) -%}
{%- endif -%}
{%- set system = system if system | trim else "" -%}
{%- if tools -%}
  {%- set system = (system + "\n\n" if system else "") + "Tools:\n"
                   + (tools if tools is string else tools | tojson) -%}
{%- endif -%}
{%- set turns = ([{"role": "system", "content": system}] if system else []) + turns -%}
{%- set state = namespace(before="") -%}
"""

# A turn begins: its role, text, thinking and call, {"name": …, KEY: {…}} as a text, and what a tool
# of our own is given.
TURN = r"""
{%- for message in turns -%}
{%- set role = {"developer": "system", "function": "tool"}.get(message.role, message.role) -%}
{%- set text = text_of(message) -%}
{%- set thinking = message.thinking or message.reasoning_content or "" -%}
{%- set calls = message.tool_calls or [] -%}
{%- set call = calls[0].function if calls else none -%}
{%- set given = none -%}
{%- if role not in ["system", "user", "assistant", "tool"] -%}
  {{- raise_exception("there is no role " + role | string
                      + "; wanted system, user, assistant, tool") -}}
{%- elif role == "system" and state.before -%}
  {{- raise_exception("the system's message is to come first") -}}
{%- elif calls | length > 1 or message.function_call -%}
  {{- raise_exception("a message is to have one call of a tool, in tool_calls, and its output "
                      + "behind it") -}}
{%- elif calls and (not call or not call.name) -%}
  {{- raise_exception("a call names no function") -}}
{%- elif call -%}
  {%- set wanted = OWN_TOOLS.get(call.name, "") -%}
  {%- if call.arguments is mapping -%}
    {%- if wanted -%}
      {%- set given = call.arguments[wanted] -%}
      {%- if given is not string or call.arguments | length != 1 -%}
        {{- raise_exception(call.name + " takes one text, called " + wanted) -}}
      {%- endif -%}
    {%- endif -%}
    {%- set arguments = call.arguments | tojson -%}
  {%- elif call.arguments is string and call.arguments | trim and not wanted -%}
    {%- set arguments = call.arguments -%}
  {%- else -%}
    {{- raise_exception("the arguments of " + call.name + " are to be an object") -}}
  {%- endif -%}
  {%- set called = '{"name": ' + call.name | tojson + ', "KEY": ' + arguments + "}" -%}
{%- endif -%}
"""

# What the assistant `said` is learned, unless its message has the weight 0.
LEARNED = r"""
  {%- if message.weight == 0 -%}
    {{- said -}}
  {%- else -%}
    {%- generation -%}
      {{- said -}}
    {%- endgeneration -%}
  {%- endif -%}
"""

LLMC = SYSTEM + TURN + r"""
{%- if role == "tool" -%}
  {{- "<|output_start|>" + text + "<|output_end|>" -}}
{%- elif role != "assistant" -%}
  {{- "<|im_end|>" if state.before == "tool" else "" -}}
  {{- "<|im_start|>" + role + "<|im_sep|>" + text + "<|im_end|>" -}}
{%- else -%}
  {{- "<|im_start|>assistant<|im_sep|>" if state.before != "tool" else "" -}}
  {%- set said = ("<|think_start|>" + thinking + "<|think_end|>" if thinking else "") + text -%}
  {%- if not call -%}
    {%- set said = said + "<|im_end|>" -%}
  {%- elif call.name == "search" -%}
    {%- set said = said + "<|search_start|>" + given + "<|search_end|>" -%}
  {%- elif call.name == "python" -%}
    {%- set said = said + "<|python_start|>" + given + "<|python_end|>" -%}
  {%- else -%}
    {%- set said = said + "<|call_start|>" + called + "<|call_end|>" -%}
  {%- endif -%}
""" + LEARNED + r"""
{%- endif -%}
{%- set state.before = role -%}
{%- endfor -%}
{%- if add_generation_prompt and state.before != "tool" -%}
  {{- "<|im_start|>assistant<|im_sep|>" -}}
{%- endif -%}
"""

CHATML = SYSTEM + TURN + r"""
{%- if role == "tool" -%}
  {{- "<|im_start|>user\n<tool_response>\n" + text + "\n</tool_response><|im_end|>" -}}
{%- elif role != "assistant" -%}
  {{- "<|im_start|>" + role + "\n" + text + "<|im_end|>" -}}
{%- else -%}
  {{- "<|im_start|>assistant\n" -}}
  {%- set said = ("<think>\n" + thinking + "\n</think>\n\n" if thinking else "") + text -%}
  {%- if call -%}
    {%- set said = said + ("\n" if text else "") + "<tool_call>\n" + called + "\n</tool_call>" -%}
  {%- endif -%}
  {%- set said = said + "<|im_end|>" -%}
""" + LEARNED + r"""
{%- endif -%}
{{- "\n" -}}
{%- set state.before = role -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- "<|im_start|>assistant\n" -}}
{%- endif -%}
"""

LLAMA3 = r"""
{{- "<|begin_of_text|>" -}}
""" + SYSTEM + TURN + r"""
{{- "<|start_header_id|>" + ("ipython" if role == "tool" else role) + "<|end_header_id|>\n\n" -}}
{%- if role != "assistant" -%}
  {{- text | trim + "<|eot_id|>" -}}
{%- elif thinking -%}
  {{- raise_exception("the template llama3 has no place for thinking; leave it out") -}}
{%- else -%}
  {%- set said = text | trim + "<|eot_id|>" -%}
  {%- if call -%}
    {%- set said = text | trim + "<|python_tag|>" + (given if call.name == "python" else called)
                   + "<|eom_id|>" -%}
  {%- endif -%}
""" + LEARNED + r"""
{%- endif -%}
{%- set state.before = role -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- "<|start_header_id|>assistant<|end_header_id|>\n\n" -}}
{%- endif -%}
"""

SOURCES = {"llmc": LLMC, "chatml": CHATML, "llama3": LLAMA3}
KEYS = {"llmc": "arguments", "chatml": "arguments", "llama3": "parameters"}


def source(template: str, system: str = "") -> str:
    """The Jinja template. system: the system's message where a conversation brings none."""
    begin = f"{{%- set system = {json.dumps(system, ensure_ascii=False)} -%}}"
    text = SOURCES[template].replace("OWN_TOOLS", json.dumps(ARGUMENT)).strip("\n")
    return begin + text.replace("KEY", KEYS[template])
