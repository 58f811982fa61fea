"""Images of a dataset from a pybids database, which is made once and shared by many jobs.

It serves where listing folders is slow, as on a network drive with thousands of participants.
Only paths are taken from it: the folder of a scan names its owner.
"""

from __future__ import annotations

import re
from pathlib import Path

from dmri_fm.errors import ConfigError
from dmri_fm_workflows.bids.folders import DATATYPES
from dmri_fm_workflows.bids.ignore import BidsIgnore
from dmri_fm_workflows.bids.listing import is_image
from dmri_fm_workflows.bids.names import is_label

#: Indexed paths, from the dataset's root: none below a datatype folder's own files, so that copies
#: and circular links are never entered.
_INDEXED = re.compile(rf"/sub-[^/]+(/ses-[^/]+)?(/({'|'.join(DATATYPES)})(/[^/]+)?)?")


def read_database(
    database_dir: Path, root: Path, is_ignored: BidsIgnore
) -> dict[Path, list[Path]]:
    """Return the images of all participants, by participant's folder.

    The dataset is indexed, and the database written, if there is none in `database_dir`.

    Raises
    ------
    ConfigError
        If the database is of another dataset, damaged, or cannot be written.
    """
    # pybids and the database engine below it take a third of a second to import.
    from bids.layout import BIDSLayout, BIDSLayoutIndexer
    from sqlalchemy.exc import SQLAlchemyError

    # Sidecars are merged by our own rule, so pybids need not open every JSON file.
    indexer = BIDSLayoutIndexer(
        validate=False,
        index_metadata=False,
        ignore=[re.compile(rf"^(?!{_INDEXED.pattern}$)")],
    )
    try:
        layout = BIDSLayout(
            root, validate=False, config="bids", database_path=database_dir, indexer=indexer
        )
        paths = [Path(path).relative_to(layout.root) for path in layout.files]
    except (SQLAlchemyError, OSError, ValueError) as error:
        raise ConfigError(
            f"the pybids database cannot be used ({type(error).__name__})",
            path=database_dir,
            expected="a folder that can be written, or a database that pybids made",
            advice="remove the folder, or name another",
        ) from error
    if Path(layout.root).resolve() != root:
        raise ConfigError(
            f"database of another dataset, {layout.root}",
            path=database_dir,
            expected=f"the database of {root}",
            advice="give each dataset a database folder of its own",
        )
    images: dict[Path, list[Path]] = {}
    for path in sorted(paths):
        folder, *sessions = path.parts[:-2]
        if not all(is_label(name.removeprefix("ses-")) for name in sessions):
            continue
        if is_image(path) and not any(
            is_ignored(root / part, is_folder=part != path)
            for part in (path, *path.parents)
            if part.name
        ):
            images.setdefault(root / folder, []).append(root / path)
    return images
