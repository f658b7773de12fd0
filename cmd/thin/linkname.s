// A function without a body (registered) is allowed in packages that have a file in assembly.
