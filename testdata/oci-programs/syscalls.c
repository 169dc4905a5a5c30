// Calls every system call with arguments that do no harm, and prints the error: NUMBER ERRNO.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static long call(long number, const long *a) {
    long result;
    register long r10 __asm__("r10") = a[3], r8 __asm__("r8") = a[4], r9 __asm__("r9") = a[5];
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static void probe(long number, const char *name, const long *arguments) {
    int ends[2];
    if (pipe(ends)) return;
    pid_t child = fork();
    if (!child) {
        alarm(1);
        // A group of its own, so that what signals the group reaches nobody else.
        setpgid(0, 0);
        long result = call(number, arguments);
        result = result < 0 && result > -4096 ? -result : 0;
        if (write(ends[1], &result, sizeof result)) {}
        _exit(0);
    }
    close(ends[1]);
    long result;
    int status;
    // Its own child would hold the pipe.
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status) && WTERMSIG(status) != SIGALRM) printf("%s killed %d\n", name, WTERMSIG(status));
    else if (WIFSIGNALED(status)) printf("%s waits\n", name);
    else if (read(ends[0], &result, sizeof result) == sizeof result) printf("%s %ld\n", name, result);
    else printf("%s ends\n", name);
    fflush(stdout);
    close(ends[0]);
}

int main(void) {
    char name[64];
    const long wrong[6] = {-1, -1, -1, -1, -1, -1};
    for (long number = 0; number < 480; number++) {
        // fork and vfork need no arguments, and what rt_sigreturn does is known.
        if (number == 15 || number == 57 || number == 58) continue;
        snprintf(name, sizeof name, "%ld", number);
        probe(number, name, wrong);
    }
    const struct { const char *name; long number, arguments[6]; } special[] = {
        {"clone-newuser", 56, {0x10000000, 0, 0, 0, 0, 0}},
        {"clone-newns", 56, {0x00020000, 0, 0, 0, 0, 0}},
        {"clone3", 435, {0, 0, 0, 0, 0, 0}},
        {"unshare-newuser", 272, {0x10000000, 0, 0, 0, 0, 0}},
        {"unshare-nothing", 272, {0, 0, 0, 0, 0, 0}},
        {"setns", 308, {-1, 0, 0, 0, 0, 0}},
        {"socket-unix", 41, {1, 1, 0, 0, 0, 0}},
        {"socket-alg", 41, {38, 5, 0, 0, 0, 0}},
        {"socket-vsock", 41, {40, 1, 0, 0, 0, 0}},
        {"socket-packet", 41, {17, 3, 0, 0, 0, 0}},
        {"personality-query", 135, {0xffffffff, 0, 0, 0, 0, 0}},
        {"personality-linux32", 135, {8, 0, 0, 0, 0, 0}},
        {"personality-randomize", 135, {0x0040000, 0, 0, 0, 0, 0}},
        {"ptrace-traceme", 101, {0, 0, 0, 0, 0, 0}},
        {"add-key", 248, {0, 0, 0, 0, 0, 0}},
        {"keyctl", 250, {0, 0, 0, 0, 0, 0}},
        {"bpf", 321, {0, 0, 0, 0, 0, 0}},
        {"io-uring-setup", 425, {1, 0, 0, 0, 0, 0}},
        {"userfaultfd", 323, {0, 0, 0, 0, 0, 0}},
        {"perf-event-open", 298, {0, 0, 0, 0, 0, 0}},
        {"x32-getpid", 0x40000000 + 39, {0, 0, 0, 0, 0, 0}},
        {"x32-mount", 0x40000000 + 165, {0, 0, 0, 0, 0, 0}},
        {"next-kernel", 1000, {0, 0, 0, 0, 0, 0}},
    };
    for (unsigned i = 0; i < sizeof special / sizeof *special; i++)
        probe(special[i].number, special[i].name, special[i].arguments);
    return 0;
}
