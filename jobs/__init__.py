"""Entry points: parse, wire, one call, record. The only importer of ray."""
