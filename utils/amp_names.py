"""The names of mixed precision, apart from `device`, which imports PyTorch."""

AMP_NAMES = ("auto", "none", "bf16", "fp16")
AMP_HELP = "mixed precision: none (float32), bf16, fp16, or auto (bf16 where the hardware supports it natively)"
