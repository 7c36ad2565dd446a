"""Writes templates.txt, what chat templates make of conversations: python templates.py > templates.txt

Needs the PyPI package jinja2, set up as Hugging Face's `apply_chat_template` does it. The templates in `templates/`
have the published formats of the models that they are named after; `thinking` has what others do besides.

Lines are `template NAME`, `system`, `user` and `answer` with a text, and `text`, what is made of these messages and
where an answer is to begin. All but ASCII (and spaces at the ends) is written as `\\1F999;`.
"""

from pathlib import Path

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

CHATS = [
    (None, ["Hello!"]),
    ("Be brief.", ["Why is the sky blue?", "It scatters.", "And at night?"]),
    ("  spaces \n", [" \n a ", " b\n", "\tc "]),
    (None, ["<<SYS>> [/INST] <|user|>", "<think>\nhm</think>\n\nyes </think> no", "é 🦙 \u2028"]),
    ("", ["", "", ""]),
]


class Generation(Extension):
    """The tag that marks what a model is to be trained on."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        return nodes.ScopedEvalContextModifier([], parser.parse_statements(["name:endgeneration"], drop_needle=True), lineno=line)


def raise_exception(message):
    raise TemplateError(message)


def escaped(text):
    def plain(at, c):
        return " " < c < "\x7f" and c != "\\" or c == " " and 0 < at < len(text) - 1

    return "".join(c if plain(at, c) else f"\\{ord(c):X};" for at, c in enumerate(text))


environment = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
)
environment.globals["raise_exception"] = raise_exception
for path in sorted(Path(__file__).with_name("templates").glob("*.jinja")):
    template = environment.from_string(path.read_text())
    print(f"template {path.stem}")
    for system, said in CHATS:
        messages = [] if system is None else [{"role": "system", "content": system}]
        for at, text in enumerate(said):
            messages.append({"role": ("user", "assistant")[at % 2], "content": text})
        for message in messages:
            name = {"assistant": "answer"}.get(message["role"], message["role"])
            print(f"{name} {escaped(message['content'])}".rstrip())
        text = template.render(
            messages=messages, add_generation_prompt=True, bos_token="<s>", eos_token="</s>", tools=None, documents=None
        )
        print(f"text {escaped(text)}".rstrip())
