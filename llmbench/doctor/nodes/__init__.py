"""Doctor on several nodes: each checks itself, node 0 gathers what they found and then checks what is between them."""
