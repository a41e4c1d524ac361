"""Runs given to others: pushed to the Hugging Face Hub, or written to a folder, with a model card.

`contents` makes the files (those of `results.publication`, and the card), `card` and `metadata` write the
card, `push` brings them to the Hub. `robustlens.hub` is the way back.
"""

from robustlens.sharing.contents import WrittenFolder, write_folder
from robustlens.sharing.push import Pushed, push

__all__ = ["Pushed", "WrittenFolder", "push", "write_folder"]
