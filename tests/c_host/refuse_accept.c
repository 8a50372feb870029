/* For LD_PRELOAD: accept4 fails with the error number in the file REFUSE_ACCEPT while the file
 * exists, and appends a byte to REFUSE_ACCEPT.calls each time. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

int accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags) {
    const char *path = getenv("REFUSE_ACCEPT");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (file) {
        int error = EACCES;
        if (fscanf(file, "%d", &error) != 1)
            error = EACCES;
        fclose(file);
        char calls[4096];
        snprintf(calls, sizeof calls, "%s.calls", path);
        if ((file = fopen(calls, "a"))) {
            fputc('.', file);
            fclose(file);
        }
        errno = error;
        return -1;
    }
    int (*next)(int, struct sockaddr *, socklen_t *, int) =
        (int (*)(int, struct sockaddr *, socklen_t *, int))dlsym(RTLD_NEXT, "accept4");
    return next(fd, addr, len, flags);
}
