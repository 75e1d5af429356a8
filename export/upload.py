"""Puts a bundle on the Hugging Face hub, as one commit: a reader finds all of it, or none."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mobile_runtime.bundle import MANIFEST_NAME, Manifest, read_manifest, verify_files
from mobile_runtime.errors import InputError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_LIBRARY = "minicpmv-mobile"


@dataclass(frozen=True)
class Upload:
    """A bundle and where it is to go: a repository OWNER/NAME, and a branch of it or None for its
    main one. Raises `InputError` for what is no bundle or no name of a repository."""

    bundle: Path
    repository: str
    revision: str | None = None
    private: bool = False
    manifest: Manifest = field(init=False)

    def __post_init__(self) -> None:
        if _REPOSITORY.fullmatch(self.repository) is None:
            raise InputError(
                f"{self.repository} is no repository; give OWNER/NAME, such as you/minicpmv-coreml."
            )
        object.__setattr__(self, "manifest", read_manifest(self.bundle))

    def run(self) -> str:
        """Upload the files that the manifest lists, and it, and return the commit's address, which
        always stands for these bytes.

        Large files go first, and one that the hub has is not sent again: after a stop, the same
        call goes on. The commit is made at the end. It removes what the manifest there listed and
        this one does not; other files stay. Raises `InputError` for a file that does not match its
        checksum, and if the hub refuses.
        """
        verify_files(self.bundle, self.manifest)
        from huggingface_hub import HfApi

        try:
            commit = self._commit(HfApi(library_name=_LIBRARY))
        except InputError:
            raise
        except Exception as error:  # the hub client raises its own, httpx's and OS errors
            raise InputError(
                f"{self.repository} could not be uploaded to ({_reason(error)}); check the name, "
                "the network and `hf auth login`, and run the same command again: it goes on where "
                "it was."
            ) from error
        return f"hf://{self.repository}@{commit}"

    def _commit(self, api: HfApi) -> str:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        head = self._prepared_branch(api)
        names = [*(entry.path for entry in self.manifest.files), MANIFEST_NAME]
        removed = sorted(self._listed_before(api, head) - set(names))
        done = api.create_commit(
            self.repository,
            [
                *(CommitOperationAdd(name, self.bundle / name) for name in names),
                *(CommitOperationDelete(name) for name in removed),
            ],
            commit_message=f"{self.manifest.model}, {self.manifest.format}",
            revision=self.revision,
            parent_commit=head,
        )
        return str(done.oid)

    def _prepared_branch(self, api: HfApi) -> str | None:
        """Make the repository and the branch if they are not there; return the branch's commit."""
        api.create_repo(self.repository, private=self.private or None, exist_ok=True)
        if self.revision is not None:
            api.create_branch(self.repository, branch=self.revision, exist_ok=True)
        found = api.model_info(self.repository, revision=self.revision)
        if self.private and not found.private:
            raise InputError(
                f"{self.repository} is there already and public; choose another name, make it "
                "private on the hub, or leave out --private."
            )
        return found.sha

    def _listed_before(self, api: HfApi, head: str | None) -> set[str]:
        """Files at `head` that the manifest there lists; none if there is no bundle."""
        there = set(api.list_repo_files(self.repository, revision=head))
        if MANIFEST_NAME not in there:
            return set()
        found = api.hf_hub_download(self.repository, MANIFEST_NAME, revision=head)
        try:
            before = read_manifest(Path(found).parent)
        except InputError:  # of another program, or another version of this one
            return set()
        return there & {entry.path for entry in before.files}


def _reason(error: Exception) -> str:
    """The kind of an error, and the hub's own words if it, or what led to it, has any."""
    cause: BaseException | None = error
    while cause is not None:
        if said := getattr(cause, "server_message", None):
            return f"{type(cause).__name__}: {said}"
        cause = cause.__cause__
    return type(error).__name__
