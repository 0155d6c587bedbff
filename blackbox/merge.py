"""`python -m blackbox.merge REQUEST`: an adapter and its base model as one model. What `bbo merge` calls."""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bbo.errors import InputError
from blackbox.program import status_of
from blackbox.saved import find, load

PROBE = "The quick brown fox jumps over the lazy dog."


def run(request: Mapping[str, Any]) -> None:
    """Write OUT, whole or not at all: safetensors and tokenizer, as transformers loads them. Raises InputError."""
    out = Path(request["out"])
    if out.exists():
        raise InputError(f"{out}: is there already")
    saved = find(request["adapter"], request["experiment"])
    if saved.whole:
        raise InputError(f"{saved.folder}: is a whole model, there is nothing to merge")
    if getattr(saved.model[0], "quantization", None):
        raise InputError("model.quantization: 4-bit weights cannot hold an adapter: merge with an --experiment without")
    print(f"merging {saved.folder}", file=sys.stderr, flush=True)
    model, tokenizer = load(saved)
    before = _logits(model, tokenizer)
    model = model.merge_and_unload(safe_merge=True)
    difference = (_logits(model, tokenizer) - before).abs().max().item()
    temporary = out.with_name(f".{out.name}.merging")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    temporary.rename(out)
    content = {"out": str(out), "adapter": str(saved.folder), "max_logit_difference": difference}
    if request["json"]:
        print(json.dumps(content))
    else:
        print(f"{out}: a whole model; on a sentence its logits differ by at most {difference:.2g} from base + adapter")


def _logits(model: Any, tokenizer: Any) -> Any:
    import torch  # noqa: PLC0415 - heavy

    ids = torch.tensor([tokenizer(PROBE)["input_ids"]], device=model.device)
    with torch.no_grad():
        return model(input_ids=ids).logits.float()


if __name__ == "__main__":
    sys.exit(status_of(run))
