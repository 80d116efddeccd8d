"""Rasters: opening them safely, their grids and CRSs, writing GeoTIFFs and polygons."""
