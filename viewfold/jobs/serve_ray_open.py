"""Where a pair lies that several processes answer from, and its encoders."""

from pathlib import Path

import torch

from viewfold.errors import ArtifactMismatch
from viewfold.jobs.file_encoder import FileEncoder
from viewfold.jobs.pair_folders import encoder_beside, pair_folders, pinned
from viewfold.jobs.serve_ray_ticket import Ticket
from viewfold.retrieval.index.bundle import read_info
from viewfold.ssl.encoder import load_encoder


def locate(source: str, home: Path, encoder: str | None) -> Ticket:
    """Where the pair that `source` names lies now; the arguments are those of `open_pair`. Little is read of it.

    Raises:
        InvalidInput: there is no bundle or no encoder; says where it was looked for.
    """
    exact, version = pinned(source, home)
    bundle, found = pair_folders(exact, home, encoder=encoder)
    bundle = bundle.resolve()  # the place itself, should `source` go by a link that moves
    info = read_info(bundle)
    base = None if info.base_encoder_id is None else encoder_beside(bundle, info.base_encoder_id)
    return Ticket(
        source=source,
        version=version,
        bundle=str(bundle),
        bundle_id=info.id,
        encoder=str(found.resolve()),
        encoder_id=info.encoder_id,
        base=None if base is None else str(base.resolve()),
        base_id=None if base is None else info.base_encoder_id,
        part=info.part,
    )


def load_encoders(ticket: Ticket) -> dict[str, FileEncoder]:
    """The encoder of a pair as `own`, and the one from before adaptation as `base` where there is one.

    Raises:
        ArtifactMismatch: an encoder is not the one that the ticket names.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    places = {"own": (ticket.encoder, ticket.encoder_id), "base": (ticket.base, ticket.base_id)}
    encoders = {}
    for name, (folder, expected) in places.items():
        if folder is None:
            continue
        encoder = load_encoder(Path(folder))
        if encoder.id != expected:
            raise ArtifactMismatch(f"{folder}: encoder {encoder.id}, and index {ticket.bundle_id} is of {expected}")
        encoders[name] = FileEncoder(encoder.to(device), ticket.part)
    return encoders
