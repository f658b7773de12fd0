# syntax=example.com/frontend:2 --option
anything at all
