/* Traces other processes and never waits for them, so that their zombies are its own (ptrace(2)).
 *
 *   tracer namespace PID   those of the pid namespace that PID is in, but for PID and itself; for ever
 *   tracer parent STATUS   a child traces this process, which then exits with that status
 */

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <unistd.h>

static int seize(pid_t pid)
{
	return ptrace(PTRACE_SEIZE, pid, NULL, NULL);
}

static void namespace_of(pid_t pid, char *name, size_t size)
{
	char path[64];
	ssize_t length;

	snprintf(path, sizeof path, "/proc/%d/ns/pid", (int)pid);
	length = readlink(path, name, size - 1);
	name[length < 0 ? 0 : length] = 0;
}

static void seize_namespace(pid_t pid)
{
	char ours[64], theirs[64];
	struct dirent *entry;
	DIR *proc;
	pid_t other;

	namespace_of(pid, ours, sizeof ours);
	for (;;) {
		proc = opendir("/proc");
		while (proc && (entry = readdir(proc))) {
			other = atoi(entry->d_name);
			if (other <= 0 || other == pid || other == getpid())
				continue;
			namespace_of(other, theirs, sizeof theirs);
			if (ours[0] && !strcmp(ours, theirs))
				seize(other);
		}
		if (proc)
			closedir(proc);
		usleep(20000);
	}
}

static int be_seized(int status)
{
	pid_t parent = getpid();
	int done[2];
	char byte;

	if (pipe(done))
		return 101;
	if (!fork()) {
		byte = seize(parent) ? 'n' : 'y';
		if (write(done[1], &byte, 1) == 1)
			pause();
		_exit(0);
	}
	return read(done[0], &byte, 1) == 1 && byte == 'y' ? status : 102;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "parent"))
		_exit(be_seized(atoi(argv[2])));
	if (argc == 3 && !strcmp(argv[1], "namespace"))
		seize_namespace(atoi(argv[2]));
	return 100;
}
