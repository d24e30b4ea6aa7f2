"""The search: claims and free devices in, an allocation or the reason why not out."""
