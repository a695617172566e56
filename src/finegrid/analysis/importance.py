"""Which layers and roles the update went to: its square, by layer and kind."""

import pandas as pd


def table(distances: pd.DataFrame) -> pd.DataFrame:
    """One row a layer and kind, from `distances.table`.

    Columns: layer, kind, numel, share (of the sum of squared changes), share_numel (of all the
    encoder's numbers), concentration (share / share_numel: 1 if every number moved alike). All
    shares are 0 where nothing moved.
    """
    squares = distances.assign(share=distances["l2"] ** 2)
    keys = ["layer", "kind"]
    frame = squares.groupby(keys, dropna=False, sort=False)[["numel", "share"]].sum().reset_index()
    total = frame["share"].sum()
    frame["share"] = frame["share"] / total if total else 0.0
    frame["share_numel"] = frame["numel"] / frame["numel"].sum()
    frame["concentration"] = frame["share"] / frame["share_numel"]
    return frame
