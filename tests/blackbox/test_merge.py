"""An adapter and its base model as one model."""

import json
from pathlib import Path

import pytest

from bbo.errors import InputError
from blackbox import merge
from blackbox.saved import find, load


def test_merged_is_adapter_and_base(searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch  # noqa: PLC0415 - heavy
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - heavy

    out = tmp_path / "merged"
    request = {"adapter": str(searched), "out": str(out), "experiment": None, "json": True}
    merge.run(request)
    assert json.loads(capsys.readouterr().out)["max_logit_difference"] < 1e-4
    adapted, tokenizer = load(find(str(searched)))
    merged, its = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    ids = torch.tensor([its("Say very often 7.")["input_ids"]])
    assert ids.tolist() == [tokenizer("Say very often 7.")["input_ids"]]
    with torch.no_grad():
        whole, parts = merged(ids).logits, adapted(input_ids=ids).logits
        with adapted.disable_adapter():
            base = adapted(input_ids=ids).logits
    torch.testing.assert_close(whole, parts, atol=1e-4, rtol=1e-4)
    assert (whole - base).abs().max() > 1e-2, "the adapter does something"
    assert sorted(path.suffix for path in out.iterdir() if "model" in path.name) == [".safetensors"]
    with pytest.raises(InputError, match="is there already"):
        merge.run(request)
    with pytest.raises(InputError, match="is a whole model"):
        merge.run({**request, "adapter": str(out), "out": str(tmp_path / "again")})
    assert not (tmp_path / "again").exists()
