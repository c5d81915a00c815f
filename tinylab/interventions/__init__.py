"""What an intervention is: sites, components, operations, sources, variants; plain declarations without any engine."""
