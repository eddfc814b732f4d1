/*
 * Python's own main program, but out of the shared library that a worker
 * uses: Debian's is slower than its program python3, whatever is run.
 */
int	Py_BytesMain(int, char **);

int
main(int argc, char **argv)
{
	return (Py_BytesMain(argc, argv));
}
