"""The program on the device: updater, inference, health."""
