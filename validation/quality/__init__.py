"""What a bundle keeps of the model: its next tokens against those of the checkpoint."""
