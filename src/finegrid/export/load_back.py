"""Stands alone, run by an interpreter that has the adapters library: files and inputs to logits.

python load_back.py BASE EXPORT INPUTS.safetensors OUTPUT.safetensors
"""

import json
import sys
from pathlib import Path


def main(base: str, export: str, inputs: str, output: str) -> None:
    """Load as the library's users do, and say which version it is."""
    import adapters  # type: ignore[import-not-found,unused-ignore]
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForSequenceClassification

    outputs = json.loads(Path(export, "head_config.json").read_text(encoding="utf-8"))["num_labels"]
    model = AutoModelForSequenceClassification.from_pretrained(
        base,
        num_labels=outputs,
        torch_dtype=torch.float32,
        ignore_mismatched_sizes=True,
        return_dict=True,
        trust_remote_code=False,
    )
    adapters.init(model)
    model.load_adapter(export, set_active=True, use_safetensors=True)
    with torch.inference_mode():
        logits = model.eval()(**load_file(inputs)).logits
    save_file({"logits": logits.clone()}, output)
    print(f"adapters {adapters.__version__}")


if __name__ == "__main__":
    del sys.path[0]  # this folder, whose adapters.py is not the library
    main(*sys.argv[1:])
