"""What is declared, and how a declaration is compiled, run, proven and promoted."""
