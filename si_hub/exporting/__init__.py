"""StyleInject adapters in other programs' formats: the converters' tables, read the other way."""
