; Boot stub of a sealed disk: prints the message by the BIOS, then on COM1
; (a guest's console is often serial only), and halts. The message, ended by a
; zero byte, follows the code. Assemble:
;     nasm -f bin -o bootstub.bin bootstub.asm
bits 16
org 0x7c00
start:
        cli
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, 0x7c00
        cld
        jmp     0:bios                  ; some BIOSes start at 07C0:0000
bios:
        mov     si, message
.char:
        lodsb
        test    al, al
        jz      serial
        mov     ah, 0x0e                ; teletype output
        mov     bx, 0x0007
        int     0x10
        jmp     .char
serial:
        mov     si, message
.char:
        lodsb
        test    al, al
        jz      halt
        mov     ah, al
        mov     cx, 0xffff              ; wait until the holding register is
        mov     dx, 0x3fd               ; empty, but not for ever
.wait:
        in      al, dx
        test    al, 0x20
        loopz   .wait
        mov     al, ah
        mov     dx, 0x3f8
        out     dx, al
        jmp     .char
halt:
        hlt
        jmp     halt
message:
