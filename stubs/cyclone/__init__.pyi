"""The part of cyclone 1.3 that RestMQ stands on; what is not here is not to be used."""

version: str
