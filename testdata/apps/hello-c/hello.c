/* With an argument: greet it and exit. Without: serve one line over HTTP on $PORT until SIGTERM. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void leave(int signal) {
    (void)signal;
    _exit(0);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        printf("hello, %s, from hello-c %s\n", argv[1], VERSION);
        return 0;
    }
    signal(SIGTERM, leave);
    signal(SIGINT, leave);
    const char *port = getenv("PORT");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port ? port : "8080"))};
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 16) != 0) {
        perror("hello-c: listen");
        return 1;
    }
    printf("hello-c %s listens on port %d\n", VERSION, ntohs(address.sin_port));
    fflush(stdout);
    const char *body = "hello from hello-c " VERSION "\n";
    for (;;) {
        int client = accept(listener, NULL, NULL);
        if (client < 0) continue;
        char request[2048], answer[256];
        if (read(client, request, sizeof request) > 0) {
            int length = snprintf(answer, sizeof answer, "HTTP/1.0 200 OK\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
            if (write(client, answer, (size_t)length) < 0) perror("hello-c: write");
        }
        close(client);
    }
}
