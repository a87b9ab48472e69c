"""The part of msgpack that bftkit uses, typed: the package itself carries no types.

Both checkers find it: pyright looks into `typings/` by itself, mypy by `mypy_path` in pyproject.toml.
"""

from collections.abc import Callable

class Packer:
    def __init__(self, *, use_bin_type: bool = ..., strict_types: bool = ..., buf_size: int = ...) -> None: ...
    def pack(self, obj: object) -> bytes: ...

def packb(o: object, *, use_bin_type: bool = ..., strict_types: bool = ...) -> bytes: ...
def unpackb(
    packed: bytes | bytearray | memoryview,
    *,
    use_list: bool = ...,
    raw: bool = ...,
    strict_map_key: bool = ...,
    object_pairs_hook: Callable[[object], object] | None = ...,
    ext_hook: Callable[[int, bytes], object] = ...,
    max_str_len: int = ...,
    max_bin_len: int = ...,
    max_array_len: int = ...,
    max_map_len: int = ...,
    max_ext_len: int = ...,
) -> object: ...
