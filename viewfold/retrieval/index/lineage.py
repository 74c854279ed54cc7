"""Whether new images may be held against those of a bundle."""

from viewfold.errors import ArtifactMismatch
from viewfold.retrieval.features_stream import VectorSource
from viewfold.retrieval.index.bundle import IndexBundle


def check_lineage(bundle: IndexBundle, features: VectorSource, *, base: bool = False) -> None:
    """Refuse features that are no neighbours of the bundle's own vectors, or of those of its base encoder.

    Raises:
        ArtifactMismatch: another encoder, part of its output, or length of vectors; names both.
    """
    info = bundle.info
    for what, there, given in (
        ("base encoder", info.base_encoder_id, features.encoder_id)
        if base
        else ("encoder", info.encoder_id, features.encoder_id),
        ("part", info.part, info.part if base else features.part),
        ("vectors of length", bundle.base_vectors().shape[1] if base else info.dim, features.dim),
    ):
        if there != given:
            raise ArtifactMismatch(
                f"{bundle.folder}: made with {what} {there}, the features with {what} {given}; embed the images as "
                "those of the index were"
            )
