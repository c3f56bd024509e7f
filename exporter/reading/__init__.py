"""What people ask of the recorded history."""
