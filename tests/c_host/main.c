/* A C program that leaves SIGPIPE as it is by default: it ends the process. */
#include <signal.h>

int tickws_host(void);

int main(void) {
    signal(SIGPIPE, SIG_DFL);
    return tickws_host();
}
