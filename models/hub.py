"""Networks on the Hugging Face Hub: `from_pretrained`, `save_pretrained` and `push_to_hub`.

The folder of a network holds model.safetensors (a checkpoint like any other, which every command takes), config.json
(its options) and README.md (its model card).
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from istd.models.model_card import model_card
from istd.utils.checkpoint import read_checkpoint, save_checkpoint
from istd.utils.checkpoint_paths import HUB_FILE, SUFFIXES, find_checkpoint
from istd.utils.errors import InputError
from istd.utils.files import write_json, write_text


class HubMixin:
    """Gives a network `save_pretrained(folder)`, `push_to_hub("user/name")` and `from_pretrained(folder or name)`.

    huggingface_hub is imported only to talk to the Hub, since that takes a while.
    """

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the folder of the network; an existing README.md stays."""
        folder = Path(save_directory)
        save_checkpoint(folder / HUB_FILE, self, dict(self.settings))
        write_json(folder / "config.json", self.options)
        if not (folder / "README.md").exists():
            write_text(folder / "README.md", model_card(self))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        **upload,
    ) -> str:
        """Upload the folder of the network to a repository of the Hub, which is created if it does not exist.

        `upload`: arguments of `huggingface_hub.HfApi.upload_folder`. Returns the URL of the commit.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        visibility = {} if private is None else {"private": private}  # versions before 0.27 have no None
        repository = api.create_repo(repo_id, exist_ok=True, **visibility).repo_id
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return api.upload_folder(repo_id=repository, folder_path=folder, revision=branch, **upload)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        /,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **options: Any,
    ) -> "HubMixin":
        """The network of a checkpoint, a folder, shipped weights, or a repository of the Hub, in eval mode.

        `options` override the network's options, as in `models.load_model`; `Network.from_pretrained` loads any network
        and takes all arguments of that function: `code="path/to/net.py:ClassName"` for a network from the user's code.
        The other arguments go to `huggingface_hub.hf_hub_download`. Raises InputError for a network of another class.
        """
        from istd.models import load_model  # imported here, since it needs all networks, and they need this

        path = find_checkpoint(source)
        if not (path.exists() or path.suffix in SUFFIXES):
            from huggingface_hub import hf_hub_download

            path = hf_hub_download(
                str(source), HUB_FILE, revision=revision, cache_dir=cache_dir, force_download=force_download,
                local_files_only=local_files_only, token=token,
            )  # fmt: skip
        checkpoint = read_checkpoint(path)
        name = checkpoint.model_name
        if not checkpoint.code or "code" in options:
            network = load_model(checkpoint, **options)
            if isinstance(network, cls):
                return network
            name = network.name
        code = f', code="FILE.py:{name}"' if checkpoint.code else ""
        raise InputError(f'{source} holds a {name}; load it with models.Network.from_pretrained("{source}"{code})')
