"""Objects as JSON text, which takes a fifth of the memory that the same takes as dictionaries."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from socadapter_operator.kube.resources import Object, ObjectKey, key_of, metadata, uid_of, version_of
from socadapter_operator.shell.indexes import Index


@dataclass(frozen=True, slots=True)
class Packed:
    """One object, and what the cache needs to know of it. `found`: index and value, for each value of each index."""

    key: ObjectKey
    uid: str
    version: str
    found: tuple[tuple[str, str], ...]
    text: bytes

    def unpack(self) -> Object:
        """The object, made anew."""
        made: Object = json.loads(self.text)
        return made


def pack(item: Object, indexes: Mapping[str, Index]) -> Packed:
    """`item` without its managed fields, which are the bulk of its metadata and read by nobody here."""
    about = metadata(item)
    kept = item
    if "managedFields" in about:
        kept = {**item, "metadata": {key: value for key, value in about.items() if key != "managedFields"}}
    namespace, name = key_of(item)
    return Packed(
        ObjectKey(sys.intern(namespace), name),
        uid_of(item),
        version_of(item),
        tuple((index, value) for index, values in indexes.items() for value in values(item)),
        json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"),
    )
