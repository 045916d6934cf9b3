"""What touches the world: broker, disk, keys, sensors. Nothing here decides."""
