/*
 * Python's own main program, but out of the library that a worker has:
 * Debian's are slower than its program python3, whatever is run.
 */
int	Py_BytesMain(int, char **);

int
main(int argc, char **argv)
{
	return (Py_BytesMain(argc, argv));
}
