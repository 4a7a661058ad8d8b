"""The programs behind the commands of `jaxvos`; nothing but the command line imports them."""
