"""`python -m blackbox.push REQUEST`: a saved adapter to the Hugging Face hub. What `bbo push` calls."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bbo.errors import InputError, MachineError
from blackbox.program import status_of
from blackbox.saved import CONFIG, Saved, find

OURS = ("experiment.yaml", "retrained.json")
"""Of use on this machine alone: they name its folders."""


def run(request: Mapping[str, Any]) -> None:
    """Raises InputError where the hub refuses repository or token, MachineError where it cannot be reached."""
    saved = find(request["adapter"])
    files = {path.name: path.stat().st_size for path in _files(saved.folder)}
    warning = _warning(saved)
    if warning:
        print(warning, file=sys.stderr)
    url = None if request["dry_run"] else _upload(saved.folder, list(files), request["repo"], request["private"])
    if request["json"]:
        print(json.dumps({"repo": request["repo"], "folder": str(saved.folder), "files": files, "url": url}))
        return
    for name, size in files.items():
        print(f"{size:>15,}  {name}")
    what = f"would go to {request['repo']} (dry run)" if url is None else f"pushed to {url}"
    print(f"{sum(files.values()):>15,}  bytes in all, {what}")


def _files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return [path for path in files if path.name not in OURS and not path.name.startswith(".")]


def _warning(saved: Saved) -> str | None:
    if saved.whole:
        return None
    path = str(json.loads((saved.folder / CONFIG).read_text()).get("base_model_name_or_path"))
    if not Path(path).is_absolute():
        return None
    return f"warning: {CONFIG} names the base model {path}, which others do not have: merge it, or edit that line"


def _upload(folder: Path, files: list[str], repo: str, private: bool) -> str:
    from huggingface_hub import HfApi, errors  # noqa: PLC0415 - only where something is sent

    hub = HfApi()
    try:
        hub.create_repo(repo, private=private, exist_ok=True)
        return str(hub.upload_folder(folder_path=folder, repo_id=repo, allow_patterns=files).commit_url)
    except (errors.HFValidationError, errors.LocalTokenNotFoundError) as error:
        raise InputError(f"REPO {repo}: {str(error).splitlines()[0]}") from None
    except errors.HfHubHTTPError as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"REPO {repo}: the hub refused: {first} (HF_TOKEN must be a token that may write)") from None
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        raise MachineError(f"the hub cannot be reached: {error}") from None


if __name__ == "__main__":
    sys.exit(status_of(run))
