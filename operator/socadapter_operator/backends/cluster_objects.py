"""Objects that the operator makes in a cluster: made once, or applied, and never somebody else's."""

import base64

from socadapter_api.errors import AlreadyExists, ForeignObject, ObjectNotFound, SecretNotFound
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import SECRET, Kind, Object, key_of, metadata


class ClusterObjects:
    """Writes what `builders` made. An object belongs to the one whose uid its controller's reference names."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, kind: Kind, item: Object) -> None:
        """Makes `item`; one of that name and owner is as good, since its name stands for its content.

        Raises:
            ForeignObject: the name is taken by an object of another owner.
        """
        try:
            self._client.create(kind, item)
        except AlreadyExists:
            there = self._client.find(kind, *key_of(item))
            if there is not None:
                self.refuse_foreign(kind, there, owner_uid(item))

    def apply(self, kind: Kind, item: Object) -> Object:
        """Makes the fields of `item` so, creating it where it is missing.

        Raises:
            ForeignObject: the name is taken by an object of another owner.
        """
        there = self._client.find(kind, *key_of(item))
        if there is not None:
            self.refuse_foreign(kind, there, owner_uid(item))
        return self._client.apply(kind, item)

    def refuse_foreign(self, kind: Kind, there: Object, uid: str) -> None:
        """Raises `ForeignObject` unless the one with `uid` controls the object that is there."""
        if owner_uid(there) == uid:
            return
        owners = [f"{ref.get('kind')} {ref.get('name')!r}" for ref in metadata(there).get("ownerReferences") or ()]
        raise ForeignObject(
            f"{kind.kind} {key_of(there)} is there and belongs to {', '.join(owners) or 'nobody'}: it is not adopted; "
            "delete it if nobody needs it, or rename the resource"
        )

    def secret(self, namespace: str, name: str, key: str) -> str:
        """The value of a key of a Secret.

        Raises:
            SecretNotFound: there is none.
        """
        try:
            held = (self._client.get(SECRET, namespace, name).get("data") or {}).get(key)
        except ObjectNotFound:
            held = None
        if held is None:
            raise SecretNotFound(f"Secret {namespace}/{name} with the key {key!r} is not there")
        return base64.b64decode(held).decode("utf-8")


def owner_uid(item: Object) -> str:
    """The uid of the controller that the object names; empty where it names none."""
    references = metadata(item).get("ownerReferences") or ()
    return next((str(ref.get("uid")) for ref in references if ref.get("controller")), "")
