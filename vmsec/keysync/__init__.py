"""What happens to a message between services: schema, transport, clients."""
