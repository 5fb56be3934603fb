"""Export trained models: ONNX, TorchScript, MONAI bundle."""
