"""Networks on the Hugging Face Hub: `from_pretrained`, `save_pretrained` and `push_to_hub`, by its library's mixin.

The folder of a network holds model.safetensors (a checkpoint like any other, which every command takes), config.json
(its options) and README.md (its model card).
"""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download

from istd.models.model_card import model_card
from istd.models.weights import load_weights
from istd.utils.checkpoint import read_checkpoint, save_checkpoint
from istd.utils.checkpoint_files import HUB_FILE
from istd.utils.errors import InputError


class HubMixin(ModelHubMixin):
    """Gives a network `save_pretrained(folder)`, `push_to_hub("user/name")` and `from_pretrained(folder or name)`."""

    def _save_pretrained(self, save_directory: Path) -> None:
        save_checkpoint(save_directory / HUB_FILE, self, dict(self.settings))

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **options: Any,
    ) -> "HubMixin":
        """The network of a folder or a repository of the Hub, with its weights, in eval mode."""
        if Path(model_id).is_dir():
            path = Path(model_id) / HUB_FILE
        else:
            path = hf_hub_download(
                model_id, HUB_FILE, revision=revision, cache_dir=cache_dir, force_download=force_download,
                local_files_only=local_files_only, token=token,
            )  # fmt: skip
        checkpoint = read_checkpoint(path)
        if checkpoint.kind == "ours" and checkpoint.model_name != cls.name:
            raise InputError(f"{model_id} holds a {checkpoint.model_name}; load it with models.load_model(FOLDER)")
        options = {**checkpoint.options, **options}
        network = cls(**options)
        network.options = options
        network.settings = checkpoint.settings
        load_weights(network, checkpoint)
        return network.eval()

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The text of README.md, see `model_card`."""
        return ModelCard(model_card(self))
