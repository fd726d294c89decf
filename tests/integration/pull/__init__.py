"""What `streamload pull` keeps: whole, verified files; interrupted, changed, damaged, denied."""
