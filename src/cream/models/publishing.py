"""Sending a model folder to the Hugging Face hub. Nothing else in Cream sends anything anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from cream.errors import ModelError
from cream.models.fingerprints import DECISIVE
from cream.models.folders import check_model_folder
from cream.models.saving import CARD

PUBLISHED = tuple(pattern for pattern in DECISIVE if pattern != "*.py")
"""What is sent: files that decide what a model computes and how text becomes ids. No code."""


@dataclass(frozen=True, slots=True)
class Upload:
    """Files and card of a model, ready to be sent."""

    folder: Path
    files: tuple[str, ...]
    """Names in `folder`, the card excluded."""
    left_out: tuple[str, ...]
    """Names in `folder` that are no part of a model and stay here."""
    card: str
    repository: str

    def sizes(self) -> dict[str, int]:
        """Bytes per file, the card included."""
        sizes = {name: (self.folder / name).stat().st_size for name in self.files}
        return {CARD: len(self.card.encode()), **sizes}


def prepare_upload(folder: Path, card: str, repository: str) -> Upload:
    """Choose what would be sent, and check it; sends nothing.

    Args:
        folder: Model folder with safetensors weights.
        card: Text of the model card; it takes the place of the folder's own.
        repository: ``owner/name``.

    Raises:
        ModelError: `folder` holds no whole model, or `repository` is not a valid name.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ModelError(f"--to {repository!r} is not a name on the hub: {error}") from error
    if repository.count("/") != 1:
        raise ModelError(f"--to {repository!r} must be owner/name, for example ada/my-model")
    check_model_folder(folder)
    names = sorted(path.name for path in folder.iterdir() if path.name != CARD)
    files = tuple(
        name
        for name in names
        if any(fnmatchcase(name, pattern) for pattern in PUBLISHED)
        and (folder / name).is_file()
        and not (folder / name).is_symlink()
    )
    left_out = tuple(name for name in names if name not in files)
    return Upload(folder, files, left_out, card, repository)


def push(upload: Upload, *, private: bool) -> str:
    """Make the repository if it is not there and send everything in one commit.

    Returns:
        Address of the commit.

    Raises:
        ModelError: There is no token, or the hub refuses.
    """
    if not get_token():
        raise ModelError(
            "pushing needs a token of the Hugging Face hub and none is stored here; log in with "
            "`hf auth login` or set HF_TOKEN. --dry-run shows what would be sent without one"
        )
    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(upload.folder / name))
        for name in upload.files
    ]
    operations.append(CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=upload.card.encode()))
    api = HfApi()
    try:
        api.create_repo(upload.repository, private=private, exist_ok=True)
        commit = api.create_commit(
            upload.repository, operations, commit_message=f"Upload {upload.folder.name} by Cream"
        )
    except OSError as error:  # the hub's own errors are OSErrors, network trouble included
        lines = str(error).strip().splitlines()
        raise ModelError(
            f"the hub did not take {upload.repository} ({type(error).__name__}: "
            f"{lines[0] if lines else 'no details'}); check the name, the token's rights and the "
            "network"
        ) from error
    return commit.commit_url
