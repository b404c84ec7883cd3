/*
 * notify.h - tells the service manager how we are: sd_notify(3)'s datagrams to
 * the socket that NOTIFY_SOCKET names. Without one nothing is sent. systemd's
 * own library is not used: the protocol is stable and one sendto(2), and the
 * library would be mapped into every worker.
 */
#ifndef KARS_PROC_NOTIFY_H
#define KARS_PROC_NOTIFY_H

/* "READY=1", "STOPPING=1", ...; a text that cannot be sent is dropped. */
void kars__notify(const char *text);

/* "RELOADING=1" with the time that Type=notify-reload asks for. */
void kars__notify_reloading(void);

#endif
