"""The files of a data set on the Hugging Face hub, at one commit.

Which files a configuration has is said in the README's YAML, as in
https://huggingface.co/docs/hub/datasets-manual-configuration; of several splits that is train.
"""
from __future__ import annotations

import re
from typing import Any

from llmc import documents
from llmc.web.kinds import kind_of
from llmc.web.remote import ASKS, Missing, Unreachable, patiently

PLACE = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\S+))?")
# a folder or a file of a split, as in train-00000-of-00002.parquet or data/test/0.parquet
SPLIT = re.compile(r"(?:^|[-._ /])(train|training|validation|valid|dev|val|test|testing|eval|"
                   r"evaluation)(?=[-._ /0-9])")
TRAIN = ("train", "training")
ROWS = {suffix: kind for suffix, kind in documents.KINDS.items() if kind != "text"}
KINDS = ROWS | {".json": "rows"}        # such hold lines too, where a README names them


def listing(place: str, config: str) -> tuple[str, dict[str, int | None]]:
    """Of OWNER/NAME or OWNER/NAME@REVISION: the URL of the data set at the commit that this is now,
    and of each file of the configuration the path in it and its size."""
    from huggingface_hub import HfFileSystem

    match = PLACE.fullmatch(place)
    if not match:
        raise ValueError(f"hf:{place} is no data set; wanted one like hf:HuggingFaceFW/fineweb, or "
                         "hf:HuggingFaceFW/fineweb@REVISION")
    commit, card = _commit(match["name"], match["revision"])
    root = f"hf://datasets/{match['name']}@{commit}"
    known = {str(each.get("config_name", "default")): each for each in card.get("configs") or []
             if isinstance(each, dict)}
    patterns, folder = _patterns(known, config, f"hf:{place}")
    found = patiently(lambda: _files(HfFileSystem(), root, patterns, folder), f"hf:{place}", ASKS)
    files = {path.removeprefix(root.removeprefix("hf://") + "/"): found[path]
             for path in sorted(found) if kind_of(path, KINDS if patterns else ROWS)}
    if not files:
        wanted = f"of configuration or folder {config!r}" if config else "that it is made of"
        raise ValueError(f"hf:{place} has no {' '.join(KINDS)} files {wanted}"
                         + f"; its configurations are {_shown(known)}" * bool(known))
    return root, files if patterns else _train(files)


def _commit(name: str, revision: str | None) -> tuple[str, dict[str, Any]]:
    """The commit that a revision is now, and the YAML of its README."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = patiently(lambda: HfApi().dataset_info(name, revision=revision,
                                                      expand=["sha", "cardData"]), name, ASKS)
    except Unreachable as error:
        if isinstance(error.__cause__, RevisionNotFoundError):
            raise ValueError(f"hf:{name} has no revision {revision}") from error
        if isinstance(error.__cause__, RepositoryNotFoundError) or isinstance(error, Missing):
            raise ValueError(f"the Hugging Face hub has no data set {name}, or none that you may "
                             "read; for a private one set HF_TOKEN") from error
        raise ValueError(f"the Hugging Face hub does not answer: {error}") from error
    return info.sha, info.card_data.to_dict() if info.card_data else {}


def _patterns(known: dict[str, Any], config: str, name: str) -> tuple[list[str], str]:
    """What the configuration's files are called, or else the folder that they are in."""
    if not known or config and config not in known:
        return [], config.strip("/")
    if not config:
        config = next((key for key, each in known.items() if each.get("default")),
                      "default" if len(known) > 1 else next(iter(known)))
    if config not in known:
        raise ValueError(f"{name} has {len(known)} configurations and none is the default; choose "
                         f"one by --config: {_shown(known)}")
    inside = str(known[config].get("data_dir") or "").strip("/")
    patterns = _train_patterns(known[config].get("data_files"))
    if elsewhere := [pattern for pattern in patterns if "://" in pattern]:
        raise ValueError(f"{name}: files of configuration {config} are elsewhere: {elsewhere[0]}")
    return [f"{inside}/{pattern}".lstrip("/") for pattern in patterns], inside


def _shown(known: dict[str, Any], most: int = 20) -> str:
    return ", ".join(list(known)[:most]) + ", …" * (len(known) > most)


def _train_patterns(data_files: Any) -> list[str]:
    """Those of the split train, if there is one."""
    if isinstance(data_files, dict):
        splits = list(data_files.items())
    else:
        rows = data_files if isinstance(data_files, list) else [data_files] if data_files else []
        splits = [(row.get("split", "train"), row.get("path")) if isinstance(row, dict)
                  else ("train", row) for row in rows]
    trained = [paths for split, paths in splits if split == "train"]
    found = trained or [paths for _, paths in splits]
    return [str(path) for paths in found
            for path in (paths if isinstance(paths, list) else [paths])]


def _files(hub: Any, root: str, patterns: list[str], folder: str) -> dict[str, int | None]:
    """Their paths, with owner and name, and sizes."""
    found: dict[str, Any] = {}
    for pattern in patterns:
        found |= hub.glob(f"{root}/{pattern}", detail=True, expand_info=False)
    if not patterns:
        try:
            found = hub.find(f"{root}/{folder}".rstrip("/"), detail=True, expand_info=False)
        except FileNotFoundError:
            return {}
    return {path: info["size"] for path, info in found.items() if info["type"] == "file"}


def _train(files: dict[str, int | None]) -> dict[str, int | None]:
    """In order; where some are of the split train, those of other splits are left out."""
    split = {path: match[1] for path in files if (match := SPLIT.search(path))}
    train = any(name in TRAIN for name in split.values())
    return {path: files[path] for path in sorted(files)
            if not train or split.get(path, "train") in TRAIN}
