"""The files of a data set on the Hugging Face hub, at one commit: named, or taken to this machine.

Which files a configuration has is said in the README's YAML, as in
https://huggingface.co/docs/hub/datasets-manual-configuration; of several splits that is train.
"""
from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path, PurePath
from typing import Any

from llmc import documents
from llmc.patience import ASKS, Missing, Unreachable, patiently

PLACE = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\S+))?")
INSIDE = re.compile(r"(?P<place>[^/:]*/[^/:]*)(?:/(?P<config>[^:]*))?(?::(?P<split>\S+))?")
# a folder or a file of a split, as in train-00000-of-00002.parquet or data/test/0.parquet
SPLIT = re.compile(r"(?:^|[-._ /])(train|training|validation|valid|dev|val|test|testing|eval|"
                   r"evaluation)(?=[-._ /0-9])")
TRAIN = ("train", "training")
ROWS = {suffix: kind for suffix, kind in documents.KINDS.items() if kind != "text"}
KINDS = ROWS | {".json": "rows"}        # such hold lines too, where a README names them
ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")


def listing(place: str, config: str) -> tuple[str, dict[str, int | None]]:
    """Of OWNER/NAME or OWNER/NAME@REVISION: the URL of the data set at the commit that this is now,
    and of each file of the configuration the path in it and its size."""
    return _listing(place, config, "", f"hf:{place}", "by --config", json=False)


def fetched(place: str) -> list[Path]:
    """The files of OWNER/NAME, of its configuration or folder OWNER/NAME/CONFIG, of a split of it
    OWNER/NAME:SPLIT, also with @REVISION behind NAME. They are taken from the hub once and then
    from its cache here. A file whose connection was cut goes on where it was; a program that was
    stopped goes on with the first file that is not whole. A ValueError says what is missing."""
    shown = f"hub:{place}"
    match = INSIDE.fullmatch(place)
    if not match or not PLACE.fullmatch(match["place"]):
        raise ValueError(f"{shown} is no data set; wanted one like hub:HuggingFaceTB/smoltalk, "
                         "hub:OWNER/NAME/CONFIG, hub:OWNER/NAME:SPLIT or hub:OWNER/NAME@REVISION")
    root, files = _listing(match["place"], (match["config"] or "").strip("/"), match["split"] or "",
                           shown, f"as in hub:{match['place']}/CONFIG", json=True)
    return [_fetch(root, path, size) for path, size in files.items()]


def _listing(place: str, config: str, split: str, shown: str, choose: str, json: bool
             ) -> tuple[str, dict[str, int | None]]:
    """split: "" for train, where files are of splits; shown: what the place is called in a
    sentence; choose: how a configuration is chosen; json: where there is nothing else, .json is
    read that no README names."""
    from huggingface_hub import HfFileSystem

    match = PLACE.fullmatch(place)
    if not match:
        raise ValueError(f"{shown} is no data set; wanted one like hf:HuggingFaceFW/fineweb, or "
                         "hf:HuggingFaceFW/fineweb@REVISION")
    commit, card = _commit(match["name"], match["revision"], shown)
    root = f"hf://datasets/{match['name']}@{commit}"
    known = {str(each.get("config_name", "default")): each for each in card.get("configs") or []
             if isinstance(each, dict)}
    patterns, folder = _patterns(known, config, split, shown, choose)
    found = patiently(lambda: _files(HfFileSystem(), root, patterns, folder), shown, ASKS)
    files = {path.removeprefix(root.removeprefix("hf://") + "/"): found[path]
             for path in sorted(found)}
    files = (_of_kinds(files, KINDS if patterns else ROWS)
             or (_of_kinds(files, KINDS) if json else {}))
    if not files:
        wanted = f"of configuration or folder {config!r}" if config else "that it is made of"
        raise ValueError(f"{shown} has no {' '.join(KINDS)} files {wanted}"
                         + f"; its configurations are {_shown(known)}" * bool(known))
    return root, files if patterns else _of_split(files, split, shown)


def _fetch(root: str, path: str, size: int | None) -> Path:
    """A file, here. What lies there with another size than the hub names is taken once more."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import LocalEntryNotFoundError

    name, _, commit = root.removeprefix("hf://datasets/").partition("@")

    def take(again: bool) -> Path:
        try:
            return Path(hf_hub_download(name, path, repo_type="dataset", revision=commit,
                                        force_download=again))
        except LocalEntryNotFoundError as error:        # no network: the cause says more
            raise error.__cause__ or ConnectionError(str(error)) from None
    for again in (False, True):
        found = patiently(lambda: take(again), f"{root}/{path}", ASKS)
        if size is None or found.stat().st_size == size:
            return found
    raise ValueError(f"{found} has {found.stat().st_size:,} bytes, and the hub says {size:,}; "
                     "remove it and try again")


def _commit(name: str, revision: str | None, shown: str) -> tuple[str, dict[str, Any]]:
    """The commit that a revision is now, and the YAML of its README."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = patiently(lambda: HfApi().dataset_info(name, revision=revision,
                                                      expand=["sha", "cardData"]), name, ASKS)
    except Unreachable as error:
        if isinstance(error.__cause__, RevisionNotFoundError):
            raise ValueError(f"{shown.partition('@')[0]} has no revision {revision}") from error
        if isinstance(error.__cause__, RepositoryNotFoundError) or isinstance(error, Missing):
            raise ValueError(f"the Hugging Face hub has no data set {name}, or none that you may "
                             "read; for a private one set HF_TOKEN") from error
        raise ValueError(f"the Hugging Face hub does not answer: {error}") from error
    return info.sha, info.card_data.to_dict() if info.card_data else {}


def _patterns(known: dict[str, Any], config: str, split: str, shown: str, choose: str
              ) -> tuple[list[str], str]:
    """What the configuration's files are called, or else the folder that they are in."""
    if not known or config and config not in known:
        return [], config.strip("/")
    if not config:
        config = next((key for key, each in known.items() if each.get("default")),
                      "default" if len(known) > 1 else next(iter(known)))
    if config not in known:
        raise ValueError(f"{shown} has {len(known)} configurations and none is the default; choose "
                         f"one {choose}: {_shown(known)}")
    inside = str(known[config].get("data_dir") or "").strip("/")
    patterns = _split_patterns(known[config].get("data_files"), split, shown)
    if elsewhere := [pattern for pattern in patterns if "://" in pattern]:
        raise ValueError(f"{shown}: files of configuration {config} are elsewhere: {elsewhere[0]}")
    return [f"{inside}/{pattern}".lstrip("/") for pattern in patterns], inside


def _shown(known: Collection[str], most: int = 20) -> str:
    return ", ".join(list(known)[:most]) + ", …" * (len(known) > most)


def _split_patterns(data_files: Any, split: str, shown: str) -> list[str]:
    """Those of the split; of none, those of train, or that are called so and more, if there are
    such, or else all."""
    if isinstance(data_files, dict):
        splits = list(data_files.items())
    else:
        rows = data_files if isinstance(data_files, list) else [data_files] if data_files else []
        splits = [(row.get("split", "train"), row.get("path")) if isinstance(row, dict)
                  else ("train", row) for row in rows]
    names = [str(name) for name, _ in splits]
    if split and splits and split not in names:
        raise ValueError(f"{shown} has no split {split}; it has {_shown(names)}")
    wanted = ({split} if split else {"train"} & set(names)
              or {name for name in names if name.startswith(TRAIN)} or set(names))
    return [str(path) for name, (_, paths) in zip(names, splits) if name in wanted
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


def _of_kinds(files: dict[str, int | None], kinds: Collection[str]) -> dict[str, int | None]:
    """Those with these endings; what only tells about a data set is none."""
    return {path: size for path, size in files.items()
            if documents.endings(PurePath(path))[0] in kinds and PurePath(path).name not in ABOUT}


def _of_split(files: dict[str, int | None], split: str, shown: str) -> dict[str, int | None]:
    """Those of a split, by their names. Of none: where some are of train, those of other splits are
    left out."""
    if split:
        named = re.compile(rf"(?:^|[-._ /]){re.escape(split)}(?=[-._ /0-9])")
        if not (found := {path: files[path] for path in files if named.search(path)}):
            raise ValueError(f"{shown} has no split {split}; its files are {_shown(files)}")
        return found
    splits = {path: match[1] for path in files if (match := SPLIT.search(path))}
    train = any(name in TRAIN for name in splits.values())
    return {path: files[path] for path in files
            if not train or splits.get(path, "train") in TRAIN}
