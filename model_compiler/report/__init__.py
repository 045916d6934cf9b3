"""What a compilation found out, kept apart from the package: the record, and the pages and lists made from it."""
