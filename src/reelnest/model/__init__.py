"""The encoder: Qwen2.5-VL with pooling, projection and adapters, and the folder that it is saved in."""
