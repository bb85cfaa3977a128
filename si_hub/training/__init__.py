"""Pictures → `Adapter`, and the one loop that trains, of the distiller too."""
