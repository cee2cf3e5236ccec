"""Where sanitized samples go: one file and one class a kind, which its source makes."""
