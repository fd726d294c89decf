"""Loading by `from_pretrained`, held against stock transformers. The tests share `zoo` and `compare`."""
