"""cyclone.template: ``Loader(folder).load(name).generate(**values)`` gives bytes, HTML-escaped."""

from typing import Any

class Template:
    name: str
    def __init__(
        self,
        template_string: str | bytes,
        name: str = ...,
        loader: BaseLoader | None = ...,
        compress_whitespace: bool | None = ...,
        autoescape: str | None = ...,
    ) -> None: ...
    def generate(self, **kwargs: Any) -> bytes: ...

class BaseLoader:
    def __init__(
        self, autoescape: str | None = ..., namespace: dict[str, Any] | None = ...
    ) -> None: ...
    def reset(self) -> None: ...
    def load(self, name: str, parent_path: str | None = ...) -> Template: ...

class Loader(BaseLoader):
    def __init__(
        self,
        root_directory: str,
        *,
        autoescape: str | None = ...,
        namespace: dict[str, Any] | None = ...,
    ) -> None: ...

class DictLoader(BaseLoader):
    def __init__(
        self,
        dict: dict[str, str],
        *,
        autoescape: str | None = ...,
        namespace: dict[str, Any] | None = ...,
    ) -> None: ...

class ParseError(Exception): ...
class TemplateError(Exception): ...
